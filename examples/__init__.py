"""Programs to start from. Run them from the root of the checkout: ``python -m examples.echo``."""
