// Command with_r3labs listens with github.com/r3labs/sse.
package main

import (
	"time"

	"github.com/r3labs/sse/v2"

	"sse-gateway/clients/hear"
)

func main() {
	var options []func(*sse.Client)
	if bytes := hear.MaxLine(); bytes > 0 {
		options = append(options, sse.ClientMaxBufferSize(bytes))
	}
	client := sse.NewClient(hear.URL(), options...)
	client.OnConnect(func(*sse.Client) { hear.Open() })
	client.ReconnectNotify = func(err error, _ time.Duration) { hear.Error(err) }
	for {
		err := client.SubscribeRaw(func(event *sse.Event) {
			hear.Event(string(event.Event), string(event.ID), string(event.Data))
		})
		hear.End(err)
		if !hear.ComesBackAlways() {
			return
		}
		time.Sleep(time.Second)
	}
}
