"""The training engine behind `import dassl`: the real Dassl, patched, or the compatible engine of this package.

`xcoop.engine.imports.install`, which `import xcoop` calls, decides which, and imports nothing heavy: torch comes with
the first `import dassl.<module>` that needs it. The rest of the library writes `from dassl.engine import TrainerX` and
never asks which one it gets.
"""
