// Package hear prints one JSON line for each thing that happens, for all programs here; see
// ../../README.md.
package hear

import (
	"encoding/json"
	"os"
	"strconv"
)

// URL is the stream's URL.
func URL() string { return os.Args[1] }

// ComesBackAlways says whether the application also reconnects after the server has ended the
// stream in order.
func ComesBackAlways() bool { return os.Getenv("COME_BACK") == "always" }

// MaxLine is the longest line that the application allows, or 0 for the library's default.
func MaxLine() int {
	bytes, _ := strconv.Atoi(os.Getenv("MAX_LINE"))
	return bytes
}

func tell(line map[string]string) {
	json.NewEncoder(os.Stdout).Encode(line)
}

// Open prints that the stream is open.
func Open() { tell(map[string]string{"what": "open"}) }

// Event prints an event that the library passed on.
func Event(kind, id, data string) {
	tell(map[string]string{"what": "event", "type": kind, "id": id, "data": data})
}

// Error prints the library's error about a lost connection.
func Error(err error) { tell(map[string]string{"what": "error", "why": err.Error()}) }

// End prints that the library will not reconnect.
func End(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	tell(map[string]string{"what": "end", "why": why})
}
