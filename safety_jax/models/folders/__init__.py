"""Model and adapter folders, in and out: strict, streamed, safetensors only."""
