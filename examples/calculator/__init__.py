"""A calculator as a service: a server, a command line for it, and a demonstration of both.

``python -m examples.calculator`` shows all of it; see ``server.py`` and ``client.py`` for use by hand.
"""
