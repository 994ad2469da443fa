"""Speed beside the peers on this processor: environments, files, contestants, rounds, tables."""
