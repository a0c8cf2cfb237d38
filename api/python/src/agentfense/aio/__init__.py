"""The asynchronous half of the package: AsyncSandboxClient and AsyncSandbox.

One event loop per object: a client belongs to the loop in which it made its first call.
"""
