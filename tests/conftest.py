"Imported before any test loads torch, so that its threads sleep while they wait."
import videop2r  # noqa: F401
