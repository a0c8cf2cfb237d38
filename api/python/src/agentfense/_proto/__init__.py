"""The protobuf messages of sandbox.v1 and agentfense.v1.

Modules `<name>_pb2` here are made from proto/*.proto when the package is built. They live in a
descriptor pool of their own (see _load.py), so they clash with nobody else's messages.
"""
