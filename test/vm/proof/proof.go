// Package proof holds tests that are run in the test machine only: they prove that
// it is the machine that other tests expect.
package proof
