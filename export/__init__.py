"""From a Hugging Face model to a bundle. Imports torch; devices never import this package."""
