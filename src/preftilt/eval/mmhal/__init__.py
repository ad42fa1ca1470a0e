"""MMHal-Bench (Sun et al., 2023): questions about pictures; a judge who sees none tells what is made up."""
