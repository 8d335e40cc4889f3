package metadata

// The encodings of commands and stored values are generated from the .proto files
// in command/commandpb and fsm/statepb, and committed.

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.57.2 generate
