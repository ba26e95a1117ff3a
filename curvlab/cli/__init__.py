"""The ``curvlab`` command. Nothing here computes; heavy imports happen inside the commands."""
