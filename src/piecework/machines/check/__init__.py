"""What would hurt: the pools of a cluster as they are, against what piecework needs of them."""
