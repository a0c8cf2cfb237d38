"""Random histories: a view and a plain directory are put through the same operations and compared.

drive.py sets the stage (sandboxes, controls, restarts) and shrinks a history that fails; worker.py
is the process that lives in both directories, with the user of the view. Read next: world.py.
"""
