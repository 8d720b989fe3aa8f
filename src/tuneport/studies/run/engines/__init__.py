"""Where steps run: in this process or some beside it (`local`), or on a cluster (`ray_cluster`). Records end the same."""
