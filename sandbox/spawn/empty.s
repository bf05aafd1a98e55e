// This file lets the compiler accept functions without a body in this package:
// the runtime provides them (see spawn.go).
