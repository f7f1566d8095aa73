"""What a model is fed and how it is run: inputs, samples, made-up inputs, sessions."""
