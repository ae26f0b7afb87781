"""See first, think second: VideoP2R and PA-GRPO, step by step."""
def __getattr__(name):
    if name != "__version__": raise AttributeError(f"module 'videop2r' has no attribute {name!r}")
    from importlib.metadata import version
    return version("videop2r")
