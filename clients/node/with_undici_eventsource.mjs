// undici's own EventSource.
//
// While it waits to come back it does not keep Node alive; most programs have something else that does.

import { EventSource } from 'undici';
import { listenTo, url } from './hear.mjs';

listenTo(new EventSource(url));
setInterval(() => {}, 60_000);
