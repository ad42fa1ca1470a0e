"""Several objectives on the demo world, with exact rewards: what reward models are trained and measured on offline."""
