"""Small tools for every other folder, independent of Redis and streamz."""
