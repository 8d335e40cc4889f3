package raftnode

import "math/rand/v2"

func testRand(seed int64) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }
