// Lets signal.go declare functions without bodies.
