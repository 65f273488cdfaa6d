"""The sections of the report that every run has: one module and one template each."""
