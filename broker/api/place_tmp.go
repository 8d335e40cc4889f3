package api

import "github.com/firnlog/firn/metadata"

func place(img *metadata.Image, n, rf int) ([][]int32, error) {
	var ids []int32
	for b := range img.Brokers() {
		ids = append(ids, b.ID)
	}
	out := make([][]int32, n)
	for i := range out {
		for j := range rf {
			out[i] = append(out[i], ids[(i+j)%len(ids)])
		}
	}
	return out, nil
}
