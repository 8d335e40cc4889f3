// Package importcheck has a test alone: packages import in one direction, and
// Kafka's messages stay where they are turned into our own types. The order is
// the list layers in its test; ARCHITECTURE.md says why it is so.
package importcheck
