"""The embedded world fable: its language and lessons, what is planted in it, and the scorers that know."""
