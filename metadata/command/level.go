package command

// Feature is the name of Firn's own feature (KIP-584): its level says what the
// commands and stored values of a cluster's metadata may say. metadata.version is
// Kafka's, and there for clients alone.
const Feature = "firn.version"

// Level is a level of Feature. A cluster that has none yet is at Level1.
type Level int16

// The levels.
const (
	// Level1: commands of version 2.
	Level1 Level = 1
	// Level2: commands of version 3. A partition knows which of its replicas are cold,
	// a broker whether its disk is full.
	Level2 Level = 2
)

// MaxLevel is the newest level that this build knows, and what a cluster that it
// forms begins at. The versions that the build reads and writes follow from it.
const MaxLevel Level = 2

// CommandVersion is the version of the commands that a cluster at this level writes.
func (l Level) CommandVersion() byte { return byte(l) + 1 }

// LevelOf is the level among a cluster's feature levels.
func LevelOf(features map[string]int16) Level { return max(Level(features[Feature]), Level1) }
