// Package octopii is the root of the module and holds no code: import
// github.com/octopii/octopii/node to build on the engine, or run cmd/octopiid.
package octopii
