"""The conformance suite: what a program may expect of a directory, as cases that run anywhere.

Plain Python of the standard library, so that one archive of this folder runs as root on the host
and as the agent inside a sandbox. Read next: base.py, then any file of cases.
"""
