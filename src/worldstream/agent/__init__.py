"""The agent: encoders by TokenSpec, a recurrent actor-critic and its losses. It sees features and action ids only."""
