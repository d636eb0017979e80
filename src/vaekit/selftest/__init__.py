"""`vaekit selftest`: what the numbers rest on, checked on the machine at hand."""
