"""Train generators, baselines, lip readers and the networks that measure."""
