"""Helpers shared by the components and the tools."""
