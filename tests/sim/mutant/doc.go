// Package mutant is tests: it compiles a package's tests with rules of the product's code
// broken on purpose, each asleep until its name is in the environment. A simulation must
// notice every one of them.
package mutant
