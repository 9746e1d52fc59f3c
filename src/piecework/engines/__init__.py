"""Engines: how a job's program is started. One file an engine.

What enters is a Plan; what leaves is a Launch, which the entrypoint carries out beside the program.
Pure: nothing is started, read or written here.
"""
