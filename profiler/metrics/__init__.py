"""Pure functions from stored records to what they mean."""
