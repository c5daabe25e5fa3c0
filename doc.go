// Package ipsecagent is the root of the module: it holds the test that keeps
// the architecture (arch_test.go). The programs are in cmd.
package ipsecagent
