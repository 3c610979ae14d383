"""The commands: ``frskd train``, ``frskd test`` and so on, a module each.

Each module has ``main()``, which parses ``sys.argv``, calls what does the work and
prints the result. ``tools/*.py`` of the repository are doors to the same functions.
"""
