"Imported before any test loads torch, so that its threads sleep while they wait; no test asks the hub."
import os
import videop2r  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
