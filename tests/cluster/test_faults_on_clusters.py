"""Whatever dies or fails while runs are on their way: outcomes stay true and nothing is left."""
