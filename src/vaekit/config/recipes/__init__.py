"""Recipes: one YAML file each, named by what `vaekit train NAME` is given."""
