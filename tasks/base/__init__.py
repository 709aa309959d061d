"""Small tools that every other folder uses; they know neither Redis nor streamz."""
