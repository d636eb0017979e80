"""The typed config: plain dataclasses in `schema`, YAML and command-line overrides in `load`.

`schema` needs the standard library alone, so a machine without pydantic can still build and train from Python.
"""
