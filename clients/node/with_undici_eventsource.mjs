// undici's own EventSource.
//
// While it waits to reconnect, it does not keep Node alive, so a timer does.

import { EventSource } from 'undici';
import { listenTo, url } from './hear.mjs';

listenTo(new EventSource(url));
setInterval(() => {}, 60_000);
