"""For the tests of programs that use trpc."""
