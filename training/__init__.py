"""How the model is made. Imports :mod:`inference`; nothing imports it."""
