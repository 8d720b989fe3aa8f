"""Where steps run: on this machine (`local`) or on a cluster (`ray_cluster`). Records are the same."""
