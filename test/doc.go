// Package test holds the tests of the whole system: real agents in network
// namespaces, captures of what was and was not on the wire, and other
// implementations as peers. It has no code of its own beside them.
package test
