// A chunk of 100 rows [n, n + 0.5, n + 0.25] with encoding/binary.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
)

func write(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	buffer := bufio.NewWriter(file)
	text := fmt.Sprintf("%-117s\n", "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }")
	fmt.Fprintf(buffer, "\x93NUMPY\x01\x00%c\x00%s", len(text), text)
	for n := 0; n < 100; n++ {
		row := [3]float64{float64(n), float64(n) + 0.5, float64(n) + 0.25}
		if err := binary.Write(buffer, binary.LittleEndian, row); err != nil {
			return err
		}
	}
	if err := buffer.Flush(); err != nil {
		return err
	}
	return file.Close()
}

func main() {
	if err := write(filepath.Join(os.Args[1], "go.npy")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
