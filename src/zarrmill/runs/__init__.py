"""What an operator asks about runs: verbs over state that compose ``io`` and ``core`` and know no stage."""
