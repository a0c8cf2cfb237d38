// Standard streams that whoever started a program has closed.
//
// Their numbers must not go to other files: output and the log would be written into a socket or
// the store. Read next: streams.c.
#ifndef AF_BASE_STREAMS_H
#define AF_BASE_STREAMS_H

// To be called before anything is opened. A closed stdin has ended; a closed stdout cannot be
// written to, which is then said as any loss of output is; a closed stderr is read by nobody.
void af_streams_init(void);

#endif
