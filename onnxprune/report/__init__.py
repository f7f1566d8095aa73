"""Results of the verbs, and how they are shown outside the terminal."""
